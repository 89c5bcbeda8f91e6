"""What a diagnosis advises: remedies with the saving each brings."""
