"""Data types shared by all subpackages; imports no other subpackage."""
