"""Methods, one file each, in folders by family. `contract.py` says what a method is."""
