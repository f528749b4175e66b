"""What `elf test` found, and the page that shows it."""
