"""What agents do. This room knows no sockets, and of tools, models and stores only their bases."""
