"""An in-memory share: a verified fake, held to the same contract as the real ones."""
