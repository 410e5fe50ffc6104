"""The Lava processes of this project."""
