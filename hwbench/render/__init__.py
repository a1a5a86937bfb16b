"""What people and programs see of a record: views (`views`), how they are written (`blocks`), JSON (`documents`)."""
