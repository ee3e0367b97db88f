"""How fast training and testing are here: steps, a whole MTIL run, exact savings. See `vlcl bench`."""
