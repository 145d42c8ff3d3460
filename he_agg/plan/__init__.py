"""Fix what all members agree on: layout, fixed point, parameters that are secure and exact, sections and parts."""
