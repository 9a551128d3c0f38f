"""Pre-training of any network on images without labels: BYOL, SimCLR, and against an attack ACL, DynACL, AdvCL."""
