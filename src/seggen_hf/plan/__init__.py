"""What a recipe needs and takes, before it costs anything: memory, disk, hours, and whether it fits a card."""
