"""What people and programs see of a record: `views`, their `blocks`, JSON `documents`."""
