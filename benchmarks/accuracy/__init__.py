"""What training a supernet is worth: a module for each item, and one command (``__main__``)."""
