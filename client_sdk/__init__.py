"""What runs inside a hospital: encrypt, upload, wait, download, decrypt."""
