"""The web: pages fetched from addresses that are everybody's, as text."""
