"""The only place that wires: settings in, running servers out."""
