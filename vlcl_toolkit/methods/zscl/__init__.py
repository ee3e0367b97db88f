"""ZSCL, and the methods that it is compared with or built on."""
