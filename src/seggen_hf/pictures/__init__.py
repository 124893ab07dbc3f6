"""What is drawn for people to look at: contact sheets, painted maps, pictures of reports and cards."""
