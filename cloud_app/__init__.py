"""The cloud: the brain decides and touches nothing; the shell around it acts."""
