"""Where processor seconds go: every one of an aggregator's and of a site's, by activity, in whole rounds."""
