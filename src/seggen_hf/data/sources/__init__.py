"""Where records come from: folders, COCO, ADE20K, the Hub, streams; and what is checked of them."""
