"""What comes from outside: names, texts, files, addresses and options, checked before they are used."""
