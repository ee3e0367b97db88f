"""How the pictures of the embedded world are drawn."""
