"""What a record of attention means, without drawing."""
