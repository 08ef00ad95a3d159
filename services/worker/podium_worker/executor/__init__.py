"""The executor process: one for each device, a child of the front process."""
