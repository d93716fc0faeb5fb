//! Image data: what the pane says, and what is asked when captions are edited.

words! {
    group_data: "captions", "标注";
    help_exclude: "leave the image out of training, or take it in again", "将图片排除在训练之外，或重新纳入";
    help_replace: "find and replace in all captions", "在所有标注中查找并替换";
    help_remove_tag: "remove a tag from all captions", "从所有标注中删除某个标签";
    help_undo: "take the last edit of captions back", "撤销上一次标注修改";
    hint_edit_caption: "edit caption", "编辑标注";
    hint_exclude: "leave out", "排除";
    hint_replace: "replace", "替换";
    images: "images", "图片";
    captions: "captions", "标注";
    sizes: "sizes", "尺寸";
    buckets: "buckets", "分桶";
    tags: "tags", "标签";
    no_caption: "(no caption)", "（无标注）";
    no_captions_here: "the data holds no captions of images", "数据中没有图片标注";
    fetching_picture: "fetching the picture", "正在获取图片";
    find_title: "find in all captions", "在所有标注中查找";
    remove_tag_title: "remove a tag from all captions", "从所有标注中删除标签";
    next: "next", "下一步";
    save: "save", "保存";
    remove: "remove", "删除";
}

sentences! {
    images_and_rows(images, rows): "{images}, {rows} rows an epoch", "{images}，每轮 {rows} 行";
    images_excluded(images): "{images} left out", "排除 {images}";
    images_regularization(images): "{images} regularization", "正则化 {images}";
    sizes_from_to(smallest, largest): "{smallest} to {largest}", "{smallest} 到 {largest}";
    images_enlarged(images): "{images} enlarged", "放大 {images}";
    image_size_in_bucket(size, bucket): "{size} in {bucket}", "{size} 放入 {bucket}";
    caption_tokens(tokens): "{tokens} tokens", "{tokens} 个词元";
    repeats_times(times): "{times} times", "{times} 次";
    replace_title(find): "replace `{find}` by", "将 `{find}` 替换为";
    caption_of(file): "caption of {file}", "{file} 的标注";
}
