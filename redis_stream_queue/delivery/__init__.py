"""One message, from the read to the acknowledgement."""
