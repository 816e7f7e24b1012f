"""Loss terms, the query sets that they apply to, and the criterion that combines them."""
