"""How pools and streams are doing, seen from outside."""
