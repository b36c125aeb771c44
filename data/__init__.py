"""Everything about the pictures: fetching, verifying, loading and deforming them."""
