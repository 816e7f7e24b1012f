"""Images, folders, videos, cameras and streams as input."""
