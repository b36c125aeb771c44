"""Everything about the pictures: fetching, verifying and loading them."""
