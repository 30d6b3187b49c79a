/** Line icons, drawn on a grid of 24; decoration, so their button or link has the name. */

const PATHS = {
  play: "M8 5.5v13l11-6.5z",
  pause: "M7 5.5h3.5v13H7zM13.5 5.5H17v13h-3.5z",
  stop: "M7 7h10v10H7z",
  check: "M5 12.5l4.5 4.5L19 7.5",
  close: "M6.5 6.5l11 11M17.5 6.5l-11 11",
  search: "M11 4.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM16 16l4 4",
  download: "M12 4v11M7.5 11l4.5 4.5 4.5-4.5M5 19.5h14",
  copy: "M9 9h10v11H9zM5 15V4h10",
  key: "M14.5 4.5a5 5 0 1 1-4.6 7L4 17.5V20h3.5v-2H10l2.5-2.6a5 5 0 0 1 2-10.9zM16 8.5h.01",
  help: "M9.3 9a2.8 2.8 0 1 1 4 2.6c-.8.5-1.3 1-1.3 2.1M12 17h.01M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.5v2M12 19.5v2M4.5 12h-2M21.5 12h-2M6.7 6.7 5.3 5.3M18.7 18.7l-1.4-1.4M6.7 17.3l-1.4 1.4M18.7 5.3l-1.4 1.4",
  moon: "M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10z",
  system: "M4 5h16v11H4zM9 20h6M12 16v4",
  file: "M7 3.5h7l4 4v13H7zM14 3.5v4h4",
  trash: "M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7",
  plus: "M12 5v14M5 12h14",
  chevron: "M7 10l5 5 5-5",
  lock: "M7 11h10v8.5H7zM9 11V8a3 3 0 0 1 6 0v3",
  again: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4",
  alert: "M12 4 3.5 19h17zM12 10v4M12 16.5h.01",
  edit: "M4.5 19.5h3.5L18.5 9 15 5.5 4.5 16z",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  const isSolid = name === "play" || name === "pause" || name === "stop";
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path
        d={PATHS[name]}
        fill={isSolid ? "currentColor" : "none"}
        stroke="currentColor"
        stroke-width="1.75"
        stroke-linecap="round"
        stroke-linejoin="round"
      />
    </svg>
  );
}
