"""The terms of the loss, and the criterion that is composed of them."""
