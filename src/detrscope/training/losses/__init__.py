"""The terms of the loss, the query sets they are taken of, and the criterion that is composed of them."""
