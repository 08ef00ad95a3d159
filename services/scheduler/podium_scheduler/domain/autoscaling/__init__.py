"""Which pods to rent and which to give back: a pure function of what is observed."""
