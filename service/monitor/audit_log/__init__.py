"""Send audit events to a security team's own log, without holding up a round."""
