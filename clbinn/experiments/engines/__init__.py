"""Where the runs of a grid are worked on: processes of this machine (`local`), or a Ray cluster (`ray`)."""
