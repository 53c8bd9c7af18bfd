"""What an update transfers: a format for whole outputs and for differences, its packer, its applier."""
