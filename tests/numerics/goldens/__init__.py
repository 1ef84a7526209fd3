"""What the golden files under tests/golden are made of; `make_goldens.py` runs it."""
