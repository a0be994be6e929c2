"""One function a method: it reads parameters, calls the runtime and shapes the result. No rule lives here."""
