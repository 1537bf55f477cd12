"""What we remember. Nothing in this folder knows of Flask, transports or delivery."""
