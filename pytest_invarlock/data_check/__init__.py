"""Whether a pack's windows are those that the owner of the data draws again as it states them."""
