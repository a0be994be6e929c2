"""Sessions on their way in and out: our own export, and what crabtalk has left.

Readers decide and never touch a disk; ``sources`` is the one that does. None knows a store.
"""
