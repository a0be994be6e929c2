"""What survives. This room knows records and media, not what a run is for."""
