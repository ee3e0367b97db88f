"""Every exact saving against the plain form, one file per method."""
