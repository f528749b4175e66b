"""What is trained, evaluated or predicted with, as Lightning modules."""
