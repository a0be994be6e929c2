"""The socket and who is on it: parameters in, a call to the runtime, results out."""
