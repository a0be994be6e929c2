"""A file for each step, in the layout of crabtalk, which either side can go on with."""
