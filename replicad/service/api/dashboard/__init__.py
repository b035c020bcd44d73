"""The dashboard: one page, and the pieces of HTML that it asks for. Nothing of it comes from elsewhere."""
