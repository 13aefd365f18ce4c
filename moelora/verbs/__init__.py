"""The verbs of the command line, in the order of the work: names, options and which function carries each out."""
