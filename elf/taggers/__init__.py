"""What looks at a picture and says what is in it; knows nothing of Lightning."""
