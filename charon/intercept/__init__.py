"""The kernel's rules of transparent interception: their text, and how they get in and out."""
