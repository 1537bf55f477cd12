"""How a mail leaves. Nothing in this folder knows of the store, of delivery or of Flask."""
